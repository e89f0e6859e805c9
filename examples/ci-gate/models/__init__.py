"""A `models` of your own: it does not clash with anything of robustcl."""
