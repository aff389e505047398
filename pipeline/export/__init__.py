"""Predictions for other systems: DICOM objects that a hospital's archive takes, and plain files for other programs."""
