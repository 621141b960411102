"""The command line: ``main.py`` and one file per subcommand; a command imports what it needs."""
