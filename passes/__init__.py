"""One file per pass; `registry` knows those that a recipe may name."""
