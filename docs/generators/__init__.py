"""Generate the pages that are made from the code, the sheets and the measurements."""
