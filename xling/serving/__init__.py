"""The pyfunc model that the registry holds, and the limits of its requests.

MLflow logs this code with each adapter, so it imports what scoring needs and never a study.
"""
