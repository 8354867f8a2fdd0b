"""The commands of `bnlint`, one file each."""
