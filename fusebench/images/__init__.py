"""Reading and writing image files: NIfTI, pictures, DICOM and other medical formats."""
