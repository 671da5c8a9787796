"""Studies: a grid of strategies, networks, mixing and wrong labels, trained, judged and compared.

settings.py   the file: one YAML, typed
grid.py       its cells: what is trained how, and what is held equal
trainings.py  what is trained on, what judges, and the trainings, each once, by its number
missing.py    those that are not finished, as processes share them
running.py    a study from its file to its page
result.py     records, differences to the baseline, files
bench.py      methods under one protocol; bench_students.py, what judges them
"""
