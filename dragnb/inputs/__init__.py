"""What comes from outside: pictures, zips, JSON and web addresses, read within stated limits.

Whatever a library throws at a bad one arrives as one InputError with field, value and remedy (`errors.boundary`).
"""
