"""Estimators over arrays. They read nothing and write nothing."""
