"""The hardware, energy, quantization and sweep files that ship with accelsim, as `accelsim.configs`.

Found with ``importlib.resources.files("accelsim.configs")``, from a checkout and from an installation alike.
"""
