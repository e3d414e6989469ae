"""A person's questions of a plan or a bundle: why, what if, which layers are at fault."""
