"""Fast kernels for cores with the DSP extension: C drivers that walk bands of a layer and call generated Thumb-2.

One module a family, with a template of the same name; binders.py gives them the catalogue's interface. A driver
widens a band of the int8 map into scratch, then calls kernels of tinyengine/kernels/assembly on it.
"""
