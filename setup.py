"""What setup.cfg cannot say: beside the packages that are found, the folder `configs` becomes `transfer.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["transfer", "transfer.*"]), "transfer.configs"],
    package_dir={"transfer.configs": "configs"},
)
