"""Measurements that are not tests: accuracy of the flows, cost of the derivatives."""
