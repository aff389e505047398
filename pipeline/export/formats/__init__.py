"""One format a file; ``@EXPORTERS.add(name)`` puts it on the list."""
