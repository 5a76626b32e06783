"""A GitLab and an issuer of ID tokens in a process of their own: ``python -m tests.e2e.elsewhere``.

Prints one line of JSON: their URLs, a file with the GitLab token of depproxy, and logins by their kind.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from twisted.internet import reactor

from tests.gitlab_double import GitLab
from tests.oidc_issuer import Issuer


def main() -> None:
    gitlab, issuer = GitLab(reactor), Issuer(reactor, time.time)
    alice, bob, proxy = (gitlab.user(name) for name in ("alice", "bob", "depproxy"))
    acme = gitlab.group("acme", guest=alice, maintainer=proxy)
    gitlab.token("glpat-depproxys-own", proxy, "read_api")
    gitlab.token("glpat-of-alice", alice, "read_registry")
    gitlab.token("glpat-of-bob", bob, "read_registry")
    gitlab.job("glcbt-of-alices-job", alice)
    deploy = gitlab.deploy_token("gldt-of-acme", acme, "read_registry")
    token_file = Path(sys.argv[1], "gitlab-token")
    token_file.write_text("glpat-depproxys-own\n")
    told = {
        "gitlab": gitlab.url,
        "issuer": issuer.issuer,
        "token_file": str(token_file),
        "logins": {
            "GitLab's personal token": ("alice", "glpat-of-alice"),
            "GitLab's job token": ("gitlab-ci-token", "glcbt-of-alices-job"),
            "GitLab's deploy token": (deploy.username, "gldt-of-acme"),
            "ID token of GitLab": ("oidc", issuer.gitlab_job()),
            "ID token of GitHub": ("oidc", issuer.github_job("Acme/Tools")),
        },
        "strangers": {
            "GitLab's personal token": ("bob", "glpat-of-bob"),
            "ID token of GitLab": ("oidc", issuer.gitlab_job("somebody/else")),
            "ID token of GitHub": ("oidc", issuer.github_job("Somebody/Else")),
        },
    }
    print(json.dumps(told), flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
