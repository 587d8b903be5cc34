def options(parser): pass
def run(**_): return 0
