"""The built-in rules, imported as `bnlint.rules`: one rule, one file, one page of documentation."""

if __name__ != "bnlint.rules":
    raise ImportError("import this package as bnlint.rules")
