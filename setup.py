"""Puts the run files and data cards of the repository into the package, where every way of installing finds them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline*"]), "pipeline.shipped.configs", "pipeline.shipped.data_cards"],
    package_dir={"pipeline.shipped.configs": "configs", "pipeline.shipped.data_cards": "data_cards"},
    package_data={
        "pipeline": [
            *("reports/templates/*", "live/page/*", "review/page/*", "schedulers/templates/*"),
            *("bundles/shipped/*", "bundles/shipped/*/*", "examples/*", "examples/*/*"),
            *("deidentify/*.tsv", "deidentify/*.npz"),
        ],
        "pipeline.shipped.configs": ["*.yaml", "*/*.yaml", "*.json"],
        "pipeline.shipped.data_cards": ["*.md"],
    },
)
