"""The command line: `verbs` holds one file per verb, `options` what they share, `tables` what they print. Nothing imports this package."""

from cwmp_profiler.moved import install

install()
