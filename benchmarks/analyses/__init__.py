"""One question each: a record of the answer, and sometimes a picture."""
