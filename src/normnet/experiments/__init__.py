"""The paper's experiments: what is trained, the CTs it is tested on, and the tables and figures."""
