"""The live page: searches below some folders as their ledgers have them now, in a browser."""
