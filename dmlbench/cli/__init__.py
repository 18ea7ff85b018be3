"""One file per subcommand: parse, call, print. Heavy libraries load inside the functions that need them."""
