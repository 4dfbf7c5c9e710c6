"""A Kubernetes API on TLS by kmock, an emulator that this project did not write.

    python3 kmock_api.py CERTIFICATE KEY

Prints its port. kmock keeps the object, and it reads requests, answers them and streams the changes. It knows neither PUT
nor versions, so this adds the rules that make a compare-and-swap: a PUT updates, each write gets a new resourceVersion, and
a PUT must name the present one.
"""

import asyncio
import itertools
import ssl
import sys

import aiohttp.web
import attrs
import kmock
from typing_extensions import override

LIFETIME_S = 300


@attrs.define(kw_only=True)
class VersionedEmulator(kmock.KubernetesEmulator):
    _versions = attrs.field(factory=lambda: itertools.count(1001), init=False)
    _writing = attrs.field(factory=asyncio.Lock, init=False)

    @override
    async def __call__(self, raw_request):
        if raw_request.method == "PUT":
            raw_request = raw_request.clone(method="PATCH")
        return await super().__call__(raw_request)

    @override
    async def _handle(self, request):
        if request.action not in (kmock.action.CREATE, kmock.action.UPDATE):
            return await super()._handle(request)
        async with self._writing:
            metadata = request.data["metadata"]
            if request.action == kmock.action.UPDATE:
                self._check_version(request, metadata)
            metadata["resourceVersion"] = str(next(self._versions))
            return await super()._handle(request)

    def _check_version(self, request, metadata):
        key = (request.resource, request.namespace, request.name)
        if key in self.objects and not self.objects[key].deleted:
            current = self.objects[key].raw["metadata"]["resourceVersion"]
            if metadata.get("resourceVersion") != current:
                raise kmock.KubernetesError(status=409, reason="Conflict", message="the object has been modified")


async def main():
    certificate, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with VersionedEmulator() as api:
        api.resources["coordination.k8s.io/v1/leases"] = {"kind": "Lease", "namespaced": True}
        runner = aiohttp.web.ServerRunner(aiohttp.web.Server(api))
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.sleep(LIFETIME_S)


if __name__ == "__main__":
    asyncio.run(main())
