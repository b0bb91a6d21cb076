"""Print the oldest versions that settings.ini allows, as pip constraints."""
import re
from configparser import ConfigParser
from pathlib import Path

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).resolve().parent.parent / "settings.ini", encoding="utf-8")
for key in [key for key in config["DEFAULT"] if key.endswith("requirements")]:
    for name, lowest in re.findall(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", config["DEFAULT"][key]):
        print(f"{name}~={lowest if lowest.count('.') > 1 else lowest + '.0'}")
