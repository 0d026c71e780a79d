"""What training runs and commands of all packages share: exit codes, atomic files, ranks, pages."""
