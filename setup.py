"""Reads the package's metadata from settings.ini, its one home."""
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

extras = {name: cfg[f"{name}_requirements"].split() for name in ("hf", "log", "course", "serve", "eval", "docs")}
extras["dev"] = [*cfg["dev_requirements"].split(), *(need for needs in extras.values() for need in needs)]


class WithChapters(build_py):
    "Puts the notebooks into the wheel, for `nanogpt course`."

    def run(self):
        super().run()
        if not self.editable_mode:
            chapters = Path(self.build_lib, "nanogpt", "chapters")
            copytree(here / "nbs", chapters, ignore=ignore_patterns(".*"), dirs_exist_ok=True)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=cfg["license"],
    url=f"https://github.com/{cfg['user']}/{cfg['repo']}",
    classifiers=[
        *(f"Programming Language :: Python :: {python}" for python in ("3", "3.11", "3.12", "3.13", "3.14")),
        "Intended Audience :: Education",
        "Intended Audience :: Developers",
        "Typing :: Typed",
    ],
    cmdclass={"build_py": WithChapters},
    packages=find_packages(include=["nanogpt", "nanogpt.*"]),
    package_data={"nanogpt": ["py.typed", "page/*"]},
    include_package_data=False,  # only those, not all that MANIFEST.in names
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].splitlines()},
)
