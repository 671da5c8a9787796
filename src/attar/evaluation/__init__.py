"""Train on a distilled set and its rivals, and judge: once, over a run, as classes arrive."""
