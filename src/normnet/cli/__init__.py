"""The command line: ``main.py`` and one file a subcommand; nothing heavy is imported before a command runs."""
