"""Keys as events posted to a window that nobody sees (`conftest.dummy`).

Here for every test of a window. Leaves out windows.
"""


def press(pygame, *keys, up=False):
    """Posts keys that go down, or up."""
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYUP if up else pygame.KEYDOWN, key=pygame.key.key_code(key)))
