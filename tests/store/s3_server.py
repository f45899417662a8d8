"""A third-party S3 server (moto or s3rver) on 127.0.0.1 for the store's tests, and the hand that fills it.

Speaks JSON lines. First it prints {"endpoint", "bucket", "access_key_id", "secret_access_key"}. Then each line on
standard input is a command, answered by one line: {"put": KEY, "bytes": DATA} with both in base64, {"delete": KEY},
{"delete_all": true}. It ends at the end of its input, so it never outlives the test that started it.

With --s3rver DIRECTORY it is s3rver, a server in JavaScript, from DIRECTORY/node_modules; else moto.
With --verify moto checks every request's signature (and answers 403 to one that is wrong).
With MLCACHE_TEST_S3_ENDPOINT set and no --s3rver, that server is filled instead, with the credentials of the environment.
"""

import argparse
import atexit
import base64
import json
import os
import subprocess
import sys
import tempfile

import boto3
from botocore.config import Config

BUCKET = "mlcache-test"
ALLOW_ALL = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


def start_moto(verify):
    """Starts the server in this process; returns its endpoint and the keys of a user who may do everything."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
    root = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    root |= {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
    iam = boto3.client("iam", **root)
    iam.create_user(UserName="mlcache")
    iam.put_user_policy(UserName="mlcache", PolicyName="all", PolicyDocument=ALLOW_ALL)
    key = iam.create_access_key(UserName="mlcache")["AccessKey"]
    if verify:
        from moto import settings

        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    return endpoint, key["AccessKeyId"], key["SecretAccessKey"]


S3RVER = """
const S3rver = require('s3rver');
new S3rver({address: '127.0.0.1', port: 0, silent: true, directory: process.argv[1]})
  .run((error, address) => console.log(error ? 'error ' + error : address.port));
process.stdin.on('end', () => process.exit(0)).resume();
"""


def start_s3rver(directory):
    """Starts it as a child that ends with this process; returns its endpoint and the keys it is born with."""
    data = tempfile.TemporaryDirectory(prefix="mlcache-s3rver-")
    atexit.register(data.cleanup)
    environment = {**os.environ, "NODE_PATH": os.path.join(directory, "node_modules")}
    server = subprocess.Popen(["node", "--openssl-legacy-provider", "-e", S3RVER, data.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env=environment)

    def stop():
        server.stdin.close()
        server.wait()
    atexit.register(stop)  # before the directory goes
    port = server.stdout.readline().strip()
    if not port.isdigit():
        sys.exit(f"s3rver did not start: {port}")
    return f"http://127.0.0.1:{port}", "S3RVER", "S3RVER"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--s3rver")
    arguments = parser.parse_args()
    endpoint = os.environ.get("MLCACHE_TEST_S3_ENDPOINT")
    if arguments.s3rver:
        endpoint, access, secret = start_s3rver(arguments.s3rver)
    elif endpoint:
        access, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    else:
        endpoint, access, secret = start_moto(arguments.verify)
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}),
    )
    if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=BUCKET)
    hello = {"endpoint": endpoint, "bucket": BUCKET, "access_key_id": access, "secret_access_key": secret}
    print(json.dumps(hello), flush=True)

    for line in sys.stdin:
        command = json.loads(line)
        answer = {"ok": True}
        try:
            if "put" in command:
                key = base64.b64decode(command["put"]).decode()
                s3.put_object(Bucket=BUCKET, Key=key, Body=base64.b64decode(command["bytes"]))
            elif "delete" in command:
                s3.delete_object(Bucket=BUCKET, Key=base64.b64decode(command["delete"]).decode())
            else:
                for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
                    keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
                    if keys:
                        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
        except Exception as error:  # the test reports it
            answer = {"ok": False, "error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
