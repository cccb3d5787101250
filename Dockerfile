# A worker of a queue, or any run of a list: docker run --rm -v /mnt/out:/out IMAGE LIST -o /out
FROM python:3.12-slim AS build
COPY pyproject.toml README.md LICENSE /src/
COPY bulkspider /src/bulkspider
RUN python -m venv /opt/bulkspider \
    && /opt/bulkspider/bin/pip install --no-cache-dir --no-compile "/src[redis,metrics]" \
    && /opt/bulkspider/bin/pip uninstall --yes pip

FROM python:3.12-slim
# Of no privilege; the folder that is mounted at /out must be its own, or writable for its group.
RUN useradd --uid 1000 --user-group --create-home bulk && mkdir /out && chown bulk:bulk /out
COPY --from=build /opt/bulkspider /opt/bulkspider
ENV PATH=/opt/bulkspider/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /out
VOLUME /out
# The worker is process 1: SIGTERM reaches it, and it hands its entries over at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["scrapy", "bulk"]
CMD ["--help"]
