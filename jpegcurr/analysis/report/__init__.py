"""The report of a comparison of Grad-CAM maps: one offline page with tables beside it."""
