"""What people touch: the picker and the studio, in Jupyter's widgets."""
