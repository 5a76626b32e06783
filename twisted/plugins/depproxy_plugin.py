"""Makes `twistd depproxy` known."""

from twisted.application.service import ServiceMaker

depproxy = ServiceMaker("depproxy", "depproxy.tap", "A pull-through cache for container images.", "depproxy")
