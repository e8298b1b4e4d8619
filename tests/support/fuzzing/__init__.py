"""Damaged files, and a judge of what the readers make of them: `tools/fuzz` and `tests/test_fuzz.py` run it.

cases        what a good file, a kind of damage and a mutant are; mutant i of a seed is the same bytes everywhere
by_...       kinds of damage: any bytes, texts (JSON, TOML), safetensors, zip and npy, torch's pickles, HDF5, idx
goods        the files of each reader before they are damaged
structures   networks with masks, codebooks, delays, images, and damage whose digest fits
loaders      what users' commands call to read them
content      what was read, as one fingerprint, and whether it may be at all
child        the process in which files are read, one after another
judge        what became of a mutant, and the table of all
"""
