"""`python -m ernie_deploy` is the `ernie-deploy` command."""

from ernie_deploy.cli import main

main()
