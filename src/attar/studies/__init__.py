"""Studies: a grid of strategies, networks, mixing and wrong labels, trained, judged and compared.

settings.py   the file: one YAML, typed
grid.py       its cells: what is trained how, and what is held equal
data.py       what is trained on, and what judges
trainings.py  the trainings, each once, by its number
running.py    a study from its file to its page
jobs.py       several processes of this machine; worker.py is one of them
result.py     records, differences to the baseline, files
"""
