"""What watches a stack, as files: Prometheus' settings and rules, Grafana's dashboard, and every query of them."""
