"""`python -m keras_cifar`: the command line."""

import sys

import cli

sys.exit(cli.main())
