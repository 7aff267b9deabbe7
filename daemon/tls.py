"""The certificate that is served, read and looked at before anything is opened."""

import ssl

from daemon.config import BadSetting, Config


def context(config: Config) -> ssl.SSLContext | None:
    """What TLS is served with; None where it is not. BadSetting where the files are not what they should be."""
    if config.tls_cert is None:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(config.tls_cert, config.tls_key, password="")  # without one, OpenSSL would ask for it
    except OSError as error:  # of which ssl.SSLError is one
        raise BadSetting(
            f"tls_cert, tls_key: expected a PEM certificate chain in {config.tls_cert} and its private key, not "
            f"encrypted, in {config.tls_key}: {error.strerror or error}"
        ) from error
    return made
