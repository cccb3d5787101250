"""For trying and testing: `origin` is the embedded server, `content` what its files contain, `example` the project that
`scrapy bulk --example` writes. No entry of a list travels through here.
"""
