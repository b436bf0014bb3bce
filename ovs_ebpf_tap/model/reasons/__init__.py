"""Why mirrors are not offloaded: each reason is spelt here once, for OVSDB and for operators."""
