import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Deadline } from '../../lib/deadline.ts';
import { Lab } from './client.ts';

let lab: Lab;
before(async () => {
  lab = await Lab.up();
});
after(() => lab.down());

/** Waits until `node` sees the resource started on one of `places`. */
async function waitForResource(node: string, resource: string, places: readonly string[]): Promise<string> {
  let last = '';
  const place = await Deadline.in(60_000).poll(100, async () => {
    last = (await lab.node(node).exec(['crm_resource', '--resource', resource, '--locate'])).stdout.trim();
    return places.find((each) => last === `resource ${resource} is running on: ${each}`);
  });
  assert.ok(place, `crm_resource says "${last}"`);
  return place;
}

test('a node that loses its power or its network is fenced, and its resource starts elsewhere', async () => {
  await lab.configureFencing();
  await lab.node(1).check(['crm', 'configure', 'primitive', 'dummy', 'ocf:pacemaker:Dummy']);
  let place = await waitForResource('node1', 'dummy', ['node1', 'node2', 'node3']);
  for (const fault of ['powerOff', 'cut'] as const) {
    const victim = lab.node(place);
    const others = lab.nodes.map(({ name }) => name).filter((name) => name !== place);
    const callsBefore = lab.fenceLog().length;
    await victim[fault]();
    place = await waitForResource(others[0] as string, 'dummy', others);
    const calls = lab.fenceLog().slice(callsBefore);
    assert.ok(
      calls.some((line) => line.endsWith(` reboot ${victim.name} exits 0`)),
      calls.join('\n'),
    );
    await victim.heal();
    await lab.waitForCluster();
  }
});
