"""`python -m resnet_audit`."""

from resnet_audit.cli import main

if __name__ == "__main__":
    main()
