"""Scan folders of images: which files are images, and which splits and classes they belong to."""
