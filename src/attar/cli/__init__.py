"""The command line: a thin skin over `attar.api`. torch is imported inside the commands, not here.

app.py          the program: errors for people, exit codes
flags.py        arguments and flags, made of the fields of `attar.api.options`; extras.py: those of no Python function
completion.py   what the shell offers
distilling.py   submitting.py   training.py   judging.py   sharing.py   finding.py
                the commands, in the order of the help
tables.py       comparisons.py   texts.py                            what they print
"""

from attar.cli.app import EPILOG, app, run

# importing them adds the commands, and their order here is that of the help
from attar.cli import distilling, submitting, training, judging, sharing, finding  # isort: skip

__all__ = ["EPILOG", "app", "distilling", "finding", "judging", "run", "sharing", "submitting", "training"]
