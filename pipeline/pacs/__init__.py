"""A hospital's PACS: what it holds is found, pulled, and what came of it pushed back (extra ``ocuseg[pacs]``)."""
