"""Every file that swan writes and reads."""

DEMO = "demo"  # the data set that `swan demo` generates
