"""The paper's experiments: what is trained, on which CTs it is tried, and the tables and figures that come of it."""
