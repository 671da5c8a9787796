"""Stored labels: the teacher's logits on replayed views, addressed by (epoch, image), behind codecs.

codecs.py   how a label becomes bytes          plan.py     what is stored, in which files; what a budget leaves
pairing.py  which stored epoch when            shards.py   the header of a file
writing.py  makes the files                    store.py    reads labels
"""
