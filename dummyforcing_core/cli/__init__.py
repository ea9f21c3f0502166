"""The command line: one thin module per command, each with add_arguments(parser) and run(args) -> exit status."""
