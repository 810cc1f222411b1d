// The actions that all parts of the viewer share, by mouse and by key.
import {nextMove} from './moves.js';
import {choicesOf} from './state.js';

export function actsOf(viewer) {
  const {sequence} = viewer;
  const travel = (place) => place !== undefined && sequence.pick(place);
  const cycle = (name) => {
    const values = choicesOf(name).map(([value]) => value);
    viewer.set({[name]: values[(values.indexOf(viewer.state[name]) + 1) % values.length]});
  };
  return {
    cycle,
    set: (changes) => viewer.set(changes),
    pick: (place) => sequence.pick(place),
    step: (by) => sequence.pick(sequence.at + by),
    ends: (last) => sequence.pick(last ? sequence.count - 1 : 0),
    play: () => sequence.play(),
    flip: (by) => travel(viewer.scene.nextFlip(by)),
    move: (by) => travel(nextMove(viewer.scene, by)),
    hold: () => viewer.set(viewer.scene.held()),
    layer: (by) => viewer.set({layers: viewer.scene.soloed(by)}),
    beside: (by) => (by ? viewer.compared.next(viewer.scene) : viewer.compared.swap(viewer.scene)),
    probe: (by) => viewer.toProbe(by),
    region: () => viewer.region.toggle(),
    open: (probe) => viewer.open(probe),
    close: () => viewer.close(),
    theme: () => viewer.cycleTheme(),
    help: () => viewer.help.showModal(),
  };
}
